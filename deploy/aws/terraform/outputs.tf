output "stack" {
  description = "What `hanse deploy aws …` knows the federation by."
  value       = aws_cloudformation_stack.server.name
}

output "outputs" {
  description = "Of the server stack: bucket, table, queue, and the roles of sites."
  value       = aws_cloudformation_stack.server.outputs
}
