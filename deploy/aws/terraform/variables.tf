variable "federation" {
  description = "The federation's name, as in federation.yaml."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9_-]{0,62}$", var.federation))
    error_message = "federation: expected letters a-z, digits, '-' and '_', as in federation.yaml."
  }
}

variable "package" {
  description = "The folder that `hanse deploy aws package FOLDER --output …` has written."
  type        = string
}

variable "external_ids" {
  description = "For each parameter ExternalId… of the server template its value, which that site's account names, too (at least 16 characters). Not a secret: it is told to the site."
  type        = map(string)
  default     = {}
}

variable "certificate_authority" {
  description = "The certificate of the federation's authority (PEM), where a site comes with its certificate; the key stays with its operator."
  type        = string
  default     = ""
}

variable "revoked_certificates" {
  description = "Certificates of such sites that hold no more, as an X.509 revocation list (PEM)."
  type        = string
  default     = ""
}
