output "topic" {
  description = "Where readings are published to."
  value       = google_pubsub_topic.this["readings"].id
}

output "lake" {
  description = "The lake, as --lake takes it."
  value       = local.lake
}

output "warehouse" {
  description = "The warehouse, as --warehouse takes it."
  value       = local.warehouse
}

output "images" {
  description = "Where `make template` pushes images to."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "parameters" {
  description = "What the job is launched with, for a launch by hand."
  value       = local.parameters
}

output "accounts" {
  description = "The service accounts of the job, of whoever launches it, and of dbt."
  value = {
    worker   = google_service_account.worker.email
    launcher = google_service_account.launcher.email
    models   = google_service_account.models.email
  }
}

output "subnetwork" {
  description = "The workers' subnetwork."
  value       = local.subnetwork
}

output "job" {
  description = "The running job; null before the first template."
  value       = one(google_dataflow_flex_template_job.pipeline[*].job_id)
}

output "dashboard" {
  description = "The dashboard."
  value       = "https://console.cloud.google.com/monitoring/dashboards/builder/${element(split("/", google_monitoring_dashboard.pipeline.id), length(split("/", google_monitoring_dashboard.pipeline.id)) - 1)}?project=${var.project}"
}
