"""What is deployed to Google Cloud: the Flex Template, its image, Terraform, the dashboard."""
