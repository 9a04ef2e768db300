"""The dataset on disk or in an object store: plan, shards, views, planes, reader, verification.

Importing this package imports nothing heavy; see `storage.reader.open_planes` for reading a dataset.
"""
