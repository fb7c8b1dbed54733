"""What stands behind the four seams of `hanse.core.seams`, by place: memory, local (directory + SQLite), grpc."""
