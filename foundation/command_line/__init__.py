"""The command line: values, types and paths of options."""
