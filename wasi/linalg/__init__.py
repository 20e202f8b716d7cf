"""The linear algebra, as plain functions on tensors: no modules, no configuration, no state."""
