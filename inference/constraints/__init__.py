"""What other measurements say of the parameters: ancillary terms."""
