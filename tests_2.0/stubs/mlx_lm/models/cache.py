"""A module that is no architecture: the runtime verdict must not take it for one."""
