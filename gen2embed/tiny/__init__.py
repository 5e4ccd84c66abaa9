"""The embedded checkpoint, `gen2embed/tiny/checkpoint`; `examples/tiny` trains it."""
