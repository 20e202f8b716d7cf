"""One class per method with `apply(model, calibration) -> model`; `conf/method/NAME.yaml` names it."""
