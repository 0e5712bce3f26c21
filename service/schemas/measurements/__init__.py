"""Results of measurements in the contract: one file each."""
