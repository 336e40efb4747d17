# Topics: the readings, those that Pub/Sub could not deliver, and the job's dead letters. Each has a
# subscription, because a topic without one forgets.

locals {
  retention = "${var.message_retention_days * 86400}s"
  topics = {
    readings     = "Readings, one JSON object a message."
    undelivered  = "Messages that Pub/Sub gave up delivering to the job."
    dead-letters = "What the job refused: the message as it came, the reason in its attributes."
  }
  # Kept as long as Pub/Sub does: somebody has to look at them.
  parked = toset(["undelivered", "dead-letters"])
  pubsub = "serviceAccount:${google_project_service_identity.this["pubsub.googleapis.com"].email}"
}

resource "google_pubsub_topic" "this" {
  for_each = local.topics

  name         = "${var.name}-${each.key}"
  kms_key_name = var.kms_key
  labels       = local.labels
  # Lets a subscription that is set back (seek), or a new one, read what was sent and read before.
  message_retention_duration = each.key == "readings" ? local.retention : null

  message_storage_policy {
    allowed_persistence_regions = [var.region]
  }

  depends_on = [google_project_service.this, google_kms_crypto_key_iam_member.agents]
}

resource "google_pubsub_subscription" "readings" {
  name   = "${var.name}-readings"
  topic  = google_pubsub_topic.this["readings"].id
  labels = local.labels

  # Dataflow lengthens it by itself; it is how long a lost worker's messages wait.
  ack_deadline_seconds       = 60
  message_retention_duration = local.retention
  # The job puts readings in order itself, and drops repetitions by their id. Ordering would hold a
  # cell's messages back, exactly-once delivery would slow all down.
  enable_message_ordering      = false
  enable_exactly_once_delivery = false

  expiration_policy {
    ttl = "" # never
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.this["undelivered"].id
    max_delivery_attempts = var.max_delivery_attempts
  }

  depends_on = [google_pubsub_topic_iam_member.undelivered]
}

resource "google_pubsub_subscription" "parked" {
  for_each = local.parked

  name                       = "${var.name}-${each.key}"
  topic                      = google_pubsub_topic.this[each.key].id
  labels                     = local.labels
  ack_deadline_seconds       = 60
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = "" # never
  }
}

# Pub/Sub itself moves messages to the topic of the undelivered.
resource "google_pubsub_topic_iam_member" "undelivered" {
  topic  = google_pubsub_topic.this["undelivered"].id
  role   = "roles/pubsub.publisher"
  member = local.pubsub
}

resource "google_pubsub_subscription_iam_member" "undelivered" {
  subscription = google_pubsub_subscription.readings.id
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub
}
