# Three accounts, each with what it needs and on what it needs it.

# The job: launcher and workers.
resource "google_service_account" "worker" {
  account_id   = "${var.name}-worker"
  display_name = "Battery pipeline: the Dataflow job"

  depends_on = [google_project_service.this]
}

# Who starts, updates and drains the job: CI or a scheduler.
resource "google_service_account" "launcher" {
  account_id   = "${var.name}-launcher"
  display_name = "Battery pipeline: launches and drains the job"

  depends_on = [google_project_service.this]
}

# dbt.
resource "google_service_account" "models" {
  account_id   = "${var.name}-models"
  display_name = "Battery pipeline: builds the models"

  depends_on = [google_project_service.this]
}

locals {
  worker   = google_service_account.worker.member
  launcher = google_service_account.launcher.member
  models   = google_service_account.models.member

  # Roles that can be given for the whole project only.
  project_roles = {
    worker-dataflow   = { role = "roles/dataflow.worker", member = local.worker }
    worker-jobs       = { role = "roles/bigquery.jobUser", member = local.worker }
    launcher-dataflow = { role = "roles/dataflow.developer", member = local.launcher }
    models-jobs       = { role = "roles/bigquery.jobUser", member = local.models }
  }

  dataset_roles = {
    worker-raw       = { dataset = "raw", role = "roles/bigquery.dataEditor", member = local.worker }
    models-raw       = { dataset = "raw", role = "roles/bigquery.dataViewer", member = local.models }
    models-analytics = { dataset = "analytics", role = "roles/bigquery.dataEditor", member = local.models }
  }

  # In the lake the job creates and reads; it never writes over an object, nor deletes one. In its
  # workspace Beam does both: objectUser is objectAdmin without the right to hand out rights. The
  # bucket reader's role lets the job find out before it reads anything whether a bucket is there.
  bucket_roles = {
    worker-lake-create = { bucket = google_storage_bucket.lake.name, role = "roles/storage.objectCreator", member = local.worker }
    worker-lake-read   = { bucket = google_storage_bucket.lake.name, role = "roles/storage.objectViewer", member = local.worker }
    worker-lake-look   = { bucket = google_storage_bucket.lake.name, role = "roles/storage.legacyBucketReader", member = local.worker }
    worker-work        = { bucket = google_storage_bucket.work.name, role = "roles/storage.objectUser", member = local.worker }
    worker-work-look   = { bucket = google_storage_bucket.work.name, role = "roles/storage.legacyBucketReader", member = local.worker }
    launcher-work      = { bucket = google_storage_bucket.work.name, role = "roles/storage.objectUser", member = local.launcher }
    launcher-work-look = { bucket = google_storage_bucket.work.name, role = "roles/storage.legacyBucketReader", member = local.launcher }
  }
}

resource "google_project_iam_member" "this" {
  #checkov:skip=CKV_GCP_49:dataflow.developer acts on jobs alone; whom their machines run as is the launcher's role on the worker account below
  for_each = local.project_roles

  project = var.project
  role    = each.value.role
  member  = each.value.member
}

resource "google_bigquery_dataset_iam_member" "this" {
  for_each = local.dataset_roles

  dataset_id = google_bigquery_dataset.this[each.value.dataset].dataset_id
  role       = each.value.role
  member     = each.value.member
}

resource "google_storage_bucket_iam_member" "this" {
  for_each = local.bucket_roles

  bucket = each.value.bucket
  role   = each.value.role
  member = each.value.member
}

resource "google_pubsub_subscription_iam_member" "worker" {
  for_each = toset(["roles/pubsub.subscriber", "roles/pubsub.viewer"])

  subscription = google_pubsub_subscription.readings.id
  role         = each.key
  member       = local.worker
}

resource "google_pubsub_topic_iam_member" "worker" {
  for_each = toset(["roles/pubsub.publisher", "roles/pubsub.viewer"])

  topic  = google_pubsub_topic.this["dead-letters"].id
  role   = each.key
  member = local.worker
}

resource "google_secret_manager_secret_iam_member" "worker" {
  for_each = var.secrets

  secret_id = each.key
  role      = "roles/secretmanager.secretAccessor"
  member    = local.worker
}

resource "google_artifact_registry_repository_iam_member" "worker" {
  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.reader"
  member     = local.worker
}

# The template lies beside Terraform's state, in a bucket that is not Terraform's.
resource "google_storage_bucket_iam_member" "template" {
  count = var.template == null ? 0 : 1

  bucket = split("/", var.template)[2]
  role   = "roles/storage.objectViewer"
  member = local.launcher
}

# The launcher starts machines that run as the worker, and as nobody else.
resource "google_service_account_iam_member" "launcher" {
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = local.launcher
}
