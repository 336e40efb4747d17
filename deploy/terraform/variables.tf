variable "project" {
  description = "Project that everything is created in."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "project must be a project's id: 6 to 30 lower-case letters, digits and dashes."
  }
}

variable "region" {
  description = "Region of the job, the topics' storage, the buckets and the datasets: one, so that nothing pays for traffic between regions."
  type        = string
  default     = "us-central1"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]{1,2}$", var.region))
    error_message = "region must be a region such as us-central1 or europe-west3, not a zone."
  }
}

variable "name" {
  description = "Beginning of every resource's name; another one makes a second deployment beside the first."
  type        = string
  default     = "battery"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 20 lower-case letters, digits and dashes, beginning with a letter."
  }
}

variable "labels" {
  description = "Labels of every resource that takes some, for cost reports."
  type        = map(string)
  default     = {}
}

# --- What runs --------------------------------------------------------------------------------

variable "template" {
  description = "The Flex Template's container spec, gs://BUCKET/NAME.json, as `make template` wrote it; null creates everything but the job."
  type        = string
  default     = null

  validation {
    condition     = var.template == null || can(regex("^gs://[a-z0-9][a-z0-9._-]+/.+[.]json$", var.template))
    error_message = "template must look like gs://BUCKET/NAME.json."
  }
}

variable "image" {
  description = "The workers' image, the one that the template names; needed with it."
  type        = string
  default     = null

  validation {
    condition     = var.image == null || can(regex("(:[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})$", var.image)) && !endswith(coalesce(var.image, "-"), ":latest")
    error_message = "image must be pinned by a tag other than latest, or by its digest."
  }

  validation {
    condition     = (var.image == null) == (var.template == null)
    error_message = "Give image and template together: make template prints both."
  }
}

variable "source_uri" {
  description = "What the job reads instead of this deployment's own subscription, such as kafka://HOST:PORT/TOPIC?secret=projects/P/secrets/S."
  type        = string
  default     = null

  validation {
    condition     = var.source_uri == null || can(regex("^(kafka|pubsub)://[^@ ]+$", var.source_uri))
    error_message = "source_uri must begin with kafka:// or pubsub:// and must not hold a login; name a secret instead."
  }
}

variable "secrets" {
  description = "Ids of the Secret Manager secrets that the job may read (Kafka's login); their values never come near Terraform."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for secret in var.secrets : can(regex("^projects/[^/]+/secrets/[A-Za-z0-9_-]+$", secret))])
    error_message = "Every secret must look like projects/PROJECT/secrets/NAME, without a version."
  }
}

variable "bigquery_method" {
  description = "How rows get into BigQuery: storage_write, file_loads or streaming_inserts."
  type        = string
  default     = "storage_write"

  validation {
    condition     = contains(["storage_write", "file_loads", "streaming_inserts"], var.bigquery_method)
    error_message = "bigquery_method must be storage_write, file_loads or streaming_inserts."
  }
}

variable "bigquery_delivery" {
  description = "Guarantee of storage_write: at_least_once or exactly_once."
  type        = string
  default     = "at_least_once"

  validation {
    condition     = contains(["at_least_once", "exactly_once"], var.bigquery_delivery)
    error_message = "bigquery_delivery must be at_least_once or exactly_once."
  }

  validation {
    condition     = var.bigquery_delivery == "at_least_once" || var.streaming_mode == "exactly_once"
    error_message = "bigquery_delivery=exactly_once needs streaming_mode=exactly_once: only there are bundles stable."
  }
}

variable "streaming_mode" {
  description = "Dataflow's own guarantee. at_least_once costs less; the warehouse drops what comes twice, the lake may hold a reading twice."
  type        = string
  default     = "exactly_once"

  validation {
    condition     = contains(["at_least_once", "exactly_once"], var.streaming_mode)
    error_message = "streaming_mode must be at_least_once or exactly_once."
  }
}

variable "parameters" {
  description = "Further parameters of the template, such as { shards = \"16\", time_zone = \"Europe/Berlin\" }; metadata.json lists them."
  type        = map(string)
  default     = {}
}

variable "transform_name_mapping" {
  description = "For an update whose graph has renamed steps: old name to new name."
  type        = map(string)
  default     = {}
}

# --- Workers ----------------------------------------------------------------------------------

variable "machine_type" {
  description = "Of the workers."
  type        = string
  default     = "n2-standard-2"
}

variable "workers" {
  description = "Workers at the start."
  type        = number
  default     = 1

  validation {
    condition     = var.workers >= 1 && var.workers <= var.max_workers
    error_message = "workers must be between 1 and max_workers."
  }
}

variable "max_workers" {
  description = "What autoscaling may go up to: the ceiling of the bill."
  type        = number
  default     = 4

  validation {
    condition     = var.max_workers >= 1 && var.max_workers <= 1000
    error_message = "max_workers must be between 1 and 1000."
  }
}

variable "subnetwork" {
  description = "Subnetwork with Private Google Access for the workers, as regions/REGION/subnetworks/NAME or its URL; null creates one."
  type        = string
  default     = null

  validation {
    condition     = var.subnetwork == null || can(regex("regions/[a-z0-9-]+/subnetworks/[a-z0-9-]+$", var.subnetwork))
    error_message = "subnetwork must end in regions/REGION/subnetworks/NAME."
  }
}

variable "subnetwork_range" {
  description = "Addresses of the subnetwork that is created: one a worker."
  type        = string
  default     = "10.128.0.0/22"

  validation {
    condition     = can(cidrhost(var.subnetwork_range, 1))
    error_message = "subnetwork_range must be a range such as 10.128.0.0/22."
  }
}

variable "nat" {
  description = "Whether workers, which have no public address, may reach the internet from the subnetwork that is created: for Kafka brokers out there."
  type        = bool
  default     = false
}

# --- Storage ----------------------------------------------------------------------------------

variable "kms_key" {
  description = "Cloud KMS key for everything that is stored, projects/P/locations/REGION/keyRings/R/cryptoKeys/K; null leaves it to Google's keys."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key))
    error_message = "kms_key must look like projects/P/locations/REGION/keyRings/R/cryptoKeys/K."
  }
}

variable "message_retention_days" {
  description = "How long Pub/Sub keeps messages, read ones too, so that they can be read again (seek)."
  type        = number
  default     = 7

  validation {
    condition     = var.message_retention_days >= 1 && var.message_retention_days <= 31
    error_message = "message_retention_days must be between 1 and 31."
  }
}

variable "max_delivery_attempts" {
  description = "Tries of a message before Pub/Sub sets it aside. High: Dataflow hands messages back for reasons of its own, too."
  type        = number
  default     = 100

  validation {
    condition     = var.max_delivery_attempts >= 5 && var.max_delivery_attempts <= 100
    error_message = "max_delivery_attempts must be between 5 and 100."
  }
}

variable "raw_nearline_days" {
  description = "Age at which the raw archive moves to NEARLINE."
  type        = number
  default     = 30
}

variable "raw_coldline_days" {
  description = "Age at which the raw archive moves to COLDLINE."
  type        = number
  default     = 120

  validation {
    condition     = var.raw_coldline_days > var.raw_nearline_days
    error_message = "raw_coldline_days must be more than raw_nearline_days."
  }
}

variable "soft_delete_days" {
  description = "How long a deleted object of the lake can be restored."
  type        = number
  default     = 14

  validation {
    condition     = var.soft_delete_days >= 7 && var.soft_delete_days <= 90
    error_message = "soft_delete_days must be between 7 and 90."
  }
}

variable "deletion_protection" {
  description = "Whether terraform destroy spares the lake and the warehouse."
  type        = bool
  default     = true
}

# --- Watching ---------------------------------------------------------------------------------

variable "notification_channels" {
  description = "Cloud Monitoring channels that alerts go to, projects/P/notificationChannels/N."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for channel in var.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[^/]+$", channel))])
    error_message = "Every channel must look like projects/P/notificationChannels/N (gcloud beta monitoring channels list)."
  }
}

variable "backlog_age_s" {
  description = "Alert when the oldest message waits longer than this."
  type        = number
  default     = 600
}

variable "watermark_age_s" {
  description = "Alert when event time is further behind the clock than this; more than window + lake_file_wait + disorder."
  type        = number
  default     = 1200
}

variable "dead_letter_ratio" {
  description = "Alert when more than this part of the messages becomes dead letters."
  type        = number
  default     = 0.01

  validation {
    condition     = var.dead_letter_ratio > 0 && var.dead_letter_ratio <= 1
    error_message = "dead_letter_ratio must be above 0 and at most 1."
  }
}

variable "silence_s" {
  description = "Alert when no reading was written for this long."
  type        = number
  default     = 1800
}

variable "latency_s" {
  description = "Alert when readings take longer than this from arrival to the sinks, on average; more than window + disorder."
  type        = number
  default     = 300
}

variable "runbook" {
  description = "Where alerts send the reader."
  type        = string
  default     = "deploy/RUNBOOK.md"
}
