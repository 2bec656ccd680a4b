"""A simulated person who labels pictures: clicks until an accuracy, estimates of that accuracy, seconds per choice."""
