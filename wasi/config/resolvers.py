"""The resolvers that conf/*.yaml use. Registered on import, so that launchers' child processes have them too."""

from omegaconf import OmegaConf

from wasi.config.naming import job_folder


def register() -> None:
    """Make `${job_folder:}` known to OmegaConf; again is harmless."""
    OmegaConf.register_new_resolver("job_folder", lambda *, _root_: job_folder(_root_), replace=True)


register()
