"""Process discovery and exit codes at run time, and submission of jobs to clusters."""
