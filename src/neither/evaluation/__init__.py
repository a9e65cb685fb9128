"""Score a classifier: metrics, calibration, selective prediction."""
