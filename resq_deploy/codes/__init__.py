"""Error-correcting codes over stored weight bytes: codes, layout, encoding, decoding, what flips leave. numpy only."""
