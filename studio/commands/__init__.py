"""The commands of `studio`, one module each, with `main(args) -> exit code`."""
