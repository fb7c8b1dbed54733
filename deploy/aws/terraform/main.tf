# A federation's stacks on AWS from the templates that `hanse deploy aws package` writes.
#
# The resources are those of `hanse deploy aws deploy`, one for one: the template that says what they are and what each
# may do is tested as it is, and written once. Terraform makes the stacks, uploads what they are made from, and keeps
# their parameters. Afterwards: `hanse deploy aws deploy FOLDER --keys-only`.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

data "aws_region" "here" {}
data "aws_partition" "here" {}

locals {
  stack    = "hanse-${replace(var.federation, "_", "-")}"
  template = file("${var.package}/server.template.json")
  needed   = keys(jsondecode(local.template).Parameters)
  ids      = [for name in local.needed : name if startswith(name, "ExternalId")]
  zips     = sort(fileset(var.package, "hanse-*.zip"))
  bucket   = aws_cloudformation_stack.code.outputs["Bucket"]
  given = merge(
    { CodeBucket = local.bucket, CodeKey = aws_s3_object.functions.key },
    contains(local.needed, "CertificateAuthority") ? {
      CertificateAuthority = var.certificate_authority
      RevokedCertificates  = var.revoked_certificates
    } : {},
    { for name in local.ids : name => lookup(var.external_ids, name, "") },
  )
}

resource "aws_cloudformation_stack" "code" {
  name          = "${local.stack}-code"
  template_body = file("${var.package}/code.template.json")
}

resource "aws_s3_object" "functions" {
  bucket      = local.bucket
  key         = "hanse/${one(local.zips)}"
  source      = "${var.package}/${one(local.zips)}"
  source_hash = filesha256("${var.package}/${one(local.zips)}")

  lifecycle {
    precondition {
      condition     = length(local.zips) == 1
      error_message = "package: expected one hanse-….zip in the folder, found ${length(local.zips)}; give `hanse deploy aws package` a fresh folder."
    }
  }
}

resource "aws_s3_object" "template" {
  bucket       = local.bucket
  key          = "templates/${substr(sha256(local.template), 0, 32)}.json"
  content      = local.template
  content_type = "application/json"
}

resource "aws_cloudformation_stack" "server" {
  name         = local.stack
  template_url = "https://${local.bucket}.s3.${data.aws_region.here.name}.${data.aws_partition.here.dns_suffix}/${aws_s3_object.template.key}"
  capabilities = ["CAPABILITY_NAMED_IAM"]
  parameters   = local.given

  lifecycle {
    precondition {
      condition     = alltrue([for name in local.ids : length(lookup(var.external_ids, name, "")) >= 16])
      error_message = "external_ids: expected at least 16 characters for each of ${join(", ", local.ids)}."
    }
    precondition {
      condition     = !contains(local.needed, "CertificateAuthority") || startswith(var.certificate_authority, "-----BEGIN CERTIFICATE-----")
      error_message = "certificate_authority: expected the certificate in the federation's folder, as a site comes with one of its own."
    }
  }
}
