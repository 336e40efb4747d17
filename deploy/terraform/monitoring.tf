# Alerts and the dashboard. Beam's counters come to Cloud Monitoring as job/user_counter, a gauge that
# only grows, hence delta and deriv; a distribution as NAME_COUNT, NAME_MEAN and others over the job's
# whole life, of which the two give the mean of late.

locals {
  dataflow = "monitored_resource=\"dataflow_job\",job_name=\"${local.job}\""
  counter  = "dataflow_googleapis_com:job_user_counter{${local.dataflow},metric_name="
  readings = "subscription_id=\"${google_pubsub_subscription.readings.name}\""

  # Each has its paragraph in the runbook, under the same name.
  alerts = {
    job-failed = {
      severity = "CRITICAL"
      told     = "The job failed, or was stopped by Dataflow."
      query    = "max(dataflow_googleapis_com:job_is_failed{${local.dataflow}}) > 0"
      lasts    = "0s"
    }
    data-stale = {
      severity = "CRITICAL"
      told     = "No reading was written for ${var.silence_s} s."
      query    = "sum(delta(${local.counter}\"written\"}[${var.silence_s}s])) <= 0 or absent(${local.counter}\"written\"})"
      lasts    = "300s"
    }
    backlog-age = {
      severity = "ERROR"
      told     = "The oldest message that nobody has acknowledged waits longer than ${var.backlog_age_s} s."
      query    = "max(pubsub_googleapis_com:subscription_oldest_unacked_message_age{${local.readings}}) > ${var.backlog_age_s}"
      lasts    = "300s"
    }
    watermark-age = {
      severity = "ERROR"
      told     = "Event time is more than ${var.watermark_age_s} s behind the clock: windows don't close."
      query    = "max(dataflow_googleapis_com:job_data_watermark_age{${local.dataflow}}) > ${var.watermark_age_s}"
      lasts    = "300s"
    }
    system-lag = {
      severity = "ERROR"
      told     = "An element has been waiting or worked on for more than ${var.watermark_age_s} s."
      query    = "max(dataflow_googleapis_com:job_system_lag{${local.dataflow}}) > ${var.watermark_age_s}"
      lasts    = "300s"
    }
    dead-letter-rate = {
      severity = "WARNING"
      told     = "More than ${var.dead_letter_ratio * 100} % of the messages became dead letters within 15 minutes."
      query    = "sum(delta(${local.counter}~\"dead_letters|refused\"}[15m])) > ${var.dead_letter_ratio} * sum(delta(${local.counter}\"read\"}[15m]))"
      lasts    = "0s"
    }
    undelivered = {
      severity = "WARNING"
      told     = "Pub/Sub gave up delivering messages to the job and set them aside."
      query    = "sum(increase(pubsub_googleapis_com:subscription_dead_letter_message_count{${local.readings}}[15m])) > 0"
      lasts    = "0s"
    }
    latency = {
      severity = "WARNING"
      told     = "Readings took more than ${var.latency_s} s from arrival to the sinks, on average over 15 minutes."
      query    = "sum(delta((${local.counter}\"latency_ms_MEAN\"} * ignoring(metric_name) ${local.counter}\"latency_ms_COUNT\"})[15m:1m])) > ${var.latency_s * 1000} * sum(delta(${local.counter}\"latency_ms_COUNT\"}[15m]))"
      lasts    = "300s"
    }
  }
}

resource "google_monitoring_alert_policy" "this" {
  for_each = local.alerts

  display_name          = "${local.job}: ${each.key}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = var.notification_channels
  user_labels           = local.labels

  conditions {
    display_name = each.key
    condition_prometheus_query_language {
      query               = each.value.query
      duration            = each.value.lasts
      evaluation_interval = "60s"
      # Monitoring knows Dataflow's metrics once a job has run; before that, the check would refuse.
      disable_metric_validation = true
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "${each.value.told}\n\nWhat to do: ${var.runbook}#${each.key}"
  }

  alert_strategy {
    auto_close = "86400s"
  }

  depends_on = [google_project_service.this]
}

resource "google_monitoring_dashboard" "pipeline" {
  dashboard_json = templatefile("${path.module}/dashboard.json", {
    job          = local.job
    subscription = google_pubsub_subscription.readings.name
    parked       = google_pubsub_subscription.parked["dead-letters"].name
    dataset      = google_bigquery_dataset.this["raw"].dataset_id
  })

  depends_on = [google_project_service.this]
}
