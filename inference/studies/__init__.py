"""What many toys say: critical values, power, sensitivity, discovery, coverage."""
