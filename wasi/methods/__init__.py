"""The fine-tuning methods: subclasses of `Method`, each selected by the `_target_` of `conf/method/NAME.yaml`."""
