"""Instruments: memory, time and work of a step, watched from outside. Models and layers know nothing of them."""
