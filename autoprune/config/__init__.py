"""The configuration of a run: YAML, checked section by section, with errors that name the key."""

from autoprune.config.run import RunConfig

__all__ = ["RunConfig"]
