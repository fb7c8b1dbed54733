# Nothing is asked of AWS. `package` is a folder of `hanse deploy aws package`, of a federation with the sites luebeck
# (an account) and riga (a certificate): TF_VAR_package.

mock_provider "aws" {
  override_resource {
    target = aws_cloudformation_stack.code
    values = { outputs = { Bucket = "code-bucket" } }
  }
  override_data {
    target = data.aws_region.here
    values = { name = "eu-central-1" }
  }
  override_data {
    target = data.aws_partition.here
    values = { dns_suffix = "amazonaws.com" }
  }
}

variables {
  federation            = "north_sea"
  external_ids          = { ExternalIdLuebeck = "0123456789abcdef" }
  certificate_authority = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
}

run "stacks_are_made_from_the_package" {
  assert {
    condition     = aws_cloudformation_stack.server.name == "hanse-north-sea" && aws_cloudformation_stack.code.name == "hanse-north-sea-code"
    error_message = "names that `hanse deploy aws` does not look for: ${aws_cloudformation_stack.server.name}"
  }
  assert {
    condition     = startswith(aws_cloudformation_stack.server.template_url, "https://code-bucket.s3.eu-central-1.amazonaws.com/templates/")
    error_message = "the template is looked for where it is not put: ${aws_cloudformation_stack.server.template_url}"
  }
  assert {
    condition = aws_cloudformation_stack.server.parameters == tomap({
      CodeBucket           = "code-bucket"
      CodeKey              = aws_s3_object.functions.key
      ExternalIdLuebeck    = "0123456789abcdef"
      CertificateAuthority = var.certificate_authority
      RevokedCertificates  = ""
    })
    error_message = "not the template's parameters: ${jsonencode(aws_cloudformation_stack.server.parameters)}"
  }
  assert {
    condition     = contains(aws_cloudformation_stack.server.capabilities, "CAPABILITY_NAMED_IAM")
    error_message = "roles with names need CAPABILITY_NAMED_IAM"
  }
}

run "a_site_without_an_external_id_is_named" {
  command = plan
  variables {
    external_ids = {}
  }
  expect_failures = [aws_cloudformation_stack.server]
}

run "an_authority_is_asked_for" {
  command = plan
  variables {
    certificate_authority = ""
  }
  expect_failures = [aws_cloudformation_stack.server]
}
