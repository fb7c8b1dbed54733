"""The seams over gRPC with mutual TLS: one stream a site, which the site opens, and streams of raw chunks for blobs."""
