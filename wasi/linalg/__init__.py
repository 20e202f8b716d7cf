"""The algebra as plain functions on tensors: no modules, no configuration, no state."""
