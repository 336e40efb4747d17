# Datasets: what the job writes, and what dbt builds of it. The job makes its tables itself, from the
# one definition of the reading.

locals {
  datasets = {
    raw       = "Readings, dead letters, window statistics, how files were read and what cyclers say of their cycles."
    analytics = "Cycles, state of health and lifetime: built by dbt from the raw dataset."
  }
  warehouse = "bigquery://${var.project}/${google_bigquery_dataset.this["raw"].dataset_id}"
}

resource "google_bigquery_dataset" "this" {
  for_each = local.datasets

  dataset_id                 = replace("${var.name}_${each.key}", "-", "_")
  location                   = var.region
  description                = each.value
  delete_contents_on_destroy = !var.deletion_protection
  labels                     = local.labels

  dynamic "default_encryption_configuration" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      kms_key_name = default_encryption_configuration.value
    }
  }

  depends_on = [google_project_service.this, google_kms_crypto_key_iam_member.agents]
}
