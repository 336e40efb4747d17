terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.40"
    }
    # google_dataflow_flex_template_job is in the beta provider alone.
    google-beta = {
      source  = "hashicorp/google-beta"
      version = "~> 6.40"
    }
  }

  # terraform init -backend-config=bucket=BUCKET -backend-config=prefix=terraform/battery
  backend "gcs" {}
}

provider "google" {
  project = var.project
  region  = var.region
}

provider "google-beta" {
  project = var.project
  region  = var.region
}
