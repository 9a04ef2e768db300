"""The stages of a dataset, from planning to the report, and the executors that run them."""
