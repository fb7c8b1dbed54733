"""Generated code only; `scripts/protoc` regenerates it from the .proto files beside it."""
