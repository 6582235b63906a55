"""Pictures, tables and self-contained pages, made from records alone; never runs a model."""
