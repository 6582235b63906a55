"""What a deployed file carries against faults in its own stored bits."""
