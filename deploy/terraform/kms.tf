# With a key of one's own, the services' agents encrypt and decrypt in one's name.

# Some of them are there only once they were asked for.

resource "google_project_service_identity" "this" {
  for_each = toset(["artifactregistry.googleapis.com", "pubsub.googleapis.com"])
  provider = google-beta

  project = var.project
  service = each.key

  depends_on = [google_project_service.this]
}

data "google_storage_project_service_account" "this" {
  depends_on = [google_project_service.this]
}

data "google_bigquery_default_service_account" "this" {
  depends_on = [google_project_service.this]
}

locals {
  number = data.google_project.this.number
  agents = var.kms_key == null ? {} : {
    artifactregistry = google_project_service_identity.this["artifactregistry.googleapis.com"].email
    bigquery         = data.google_bigquery_default_service_account.this.email
    compute          = "service-${local.number}@compute-system.iam.gserviceaccount.com"
    dataflow         = "service-${local.number}@dataflow-service-producer-prod.iam.gserviceaccount.com"
    pubsub           = google_project_service_identity.this["pubsub.googleapis.com"].email
    storage          = data.google_storage_project_service_account.this.email_address
  }
}

resource "google_kms_crypto_key_iam_member" "agents" {
  for_each = local.agents

  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${each.value}"
}
