# The lake, and the job's workspace.

locals {
  lake_prefix = "lake"
  lake        = "gs://${google_storage_bucket.lake.name}/${local.lake_prefix}"
}

resource "google_storage_bucket" "lake" {
  #checkov:skip=CKV_GCP_78:files are only ever created, never written over, so there are no versions; soft delete brings back what was deleted
  #checkov:skip=CKV_GCP_62:who reads and writes is in Cloud Audit Logs (data access); access log files would be a second bucket to guard
  name                        = "${var.project}-${var.name}-lake"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection
  labels                      = local.labels

  soft_delete_policy {
    retention_duration_seconds = var.soft_delete_days * 86400
  }

  # The raw archive is read again only to rebuild a warehouse. The readings stay where they are:
  # load jobs and queries read them.
  lifecycle_rule {
    action {
      type          = "SetStorageClass"
      storage_class = "NEARLINE"
    }
    condition {
      age                   = var.raw_nearline_days
      matches_prefix        = ["${local.lake_prefix}/raw/"]
      matches_storage_class = ["STANDARD"]
    }
  }
  lifecycle_rule {
    action {
      type          = "SetStorageClass"
      storage_class = "COLDLINE"
    }
    condition {
      age                   = var.raw_coldline_days
      matches_prefix        = ["${local.lake_prefix}/raw/"]
      matches_storage_class = ["NEARLINE"]
    }
  }
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 2
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [google_project_service.this, google_kms_crypto_key_iam_member.agents]
}

resource "google_storage_bucket" "work" {
  #checkov:skip=CKV_GCP_78:temporary and staged files are named by job and launch, and nobody wants an old one back
  #checkov:skip=CKV_GCP_62:holds nothing but temporary and staged files; Cloud Audit Logs tell who touches them
  name                        = "${var.project}-${var.name}-work"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true
  labels                      = local.labels

  # Otherwise every temporary file would be paid for a week longer than it is.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  # Not staging/: workers that start while a job runs, maybe for years, read its files.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age            = 14
      matches_prefix = ["tmp/"]
    }
  }
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 2
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [google_project_service.this, google_kms_crypto_key_iam_member.agents]
}
