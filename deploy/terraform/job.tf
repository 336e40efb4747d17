# The job. A new template, parameter or image updates it in place; destroying it drains it, so that
# nothing that was read is lost.

locals {
  job    = "${var.name}-pipeline"
  source = var.source_uri != null ? var.source_uri : "pubsub://${var.project}/${google_pubsub_subscription.readings.name}"

  parameters = merge({
    source            = local.source
    lake              = local.lake
    warehouse         = local.warehouse
    bigquery_method   = var.bigquery_method
    bigquery_delivery = var.bigquery_delivery
    dead_letter_topic = "pubsub://${var.project}/${google_pubsub_topic.this["dead-letters"].name}"
  }, var.parameters)
}

resource "google_dataflow_flex_template_job" "pipeline" {
  count    = var.template == null ? 0 : 1
  provider = google-beta

  name                    = local.job
  project                 = var.project
  region                  = var.region
  container_spec_gcs_path = var.template
  parameters              = local.parameters
  transform_name_mapping  = var.transform_name_mapping
  labels                  = local.labels

  on_delete                    = "drain"
  skip_wait_on_job_termination = false

  enable_streaming_engine = true
  autoscaling_algorithm   = "THROUGHPUT_BASED"
  num_workers             = var.workers
  max_workers             = var.max_workers
  machine_type            = var.machine_type
  launcher_machine_type   = "n2-standard-2"
  sdk_container_image     = var.image
  additional_experiments  = var.streaming_mode == "at_least_once" ? ["streaming_mode_at_least_once"] : []

  service_account_email = google_service_account.worker.email
  subnetwork            = local.subnetwork
  ip_configuration      = "WORKER_IP_PRIVATE"
  kms_key_name          = var.kms_key
  temp_location         = "gs://${google_storage_bucket.work.name}/tmp"
  staging_location      = "gs://${google_storage_bucket.work.name}/staging"

  # The job checks at launch that it may do what it has to.
  depends_on = [
    google_artifact_registry_repository_iam_member.worker,
    google_bigquery_dataset_iam_member.this,
    google_project_iam_member.this,
    google_pubsub_subscription_iam_member.worker,
    google_pubsub_topic_iam_member.worker,
    google_secret_manager_secret_iam_member.worker,
    google_storage_bucket_iam_member.this,
  ]
}
