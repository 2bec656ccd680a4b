"""Choice of settings and methods, and calibration, on the support set alone."""
