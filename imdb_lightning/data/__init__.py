"""The reviews: sources, text, encoding, batches, and the LightningDataModule."""
