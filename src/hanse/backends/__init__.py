"""What stands behind the four seams of `hanse.core.seams`, by place.

In memory, local (a directory and SQLite), over grpc, in an S3-like objectstore, and on aws.
"""
