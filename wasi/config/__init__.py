"""What a configuration means before anything heavy is imported: validity, identity, folder name."""
