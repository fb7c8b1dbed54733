"""A federation on AWS without a server: its templates, the package of its functions, and the calls that deploy them.

settings    `federation.yaml`
stacks      settings → CloudFormation templates, from storage, messages, functions, identity, watching, network
package     the zip of the functions
enrolling   who belongs to it: admitted, revoked, listed
deploying   templates and package → AWS, and back to nothing
cost        what a round costs
"""
