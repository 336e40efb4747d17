# Workers have no public address: they reach Google's services by Private Google Access.

locals {
  subnetwork = var.subnetwork != null ? var.subnetwork : google_compute_subnetwork.workers[0].self_link
  own        = var.subnetwork == null ? 1 : 0
}

resource "google_compute_network" "workers" {
  #checkov:skip=CKV2_GCP_18:without a rule nothing may come in, which is all that the workers need
  count = local.own

  name                    = "${var.name}-workers"
  auto_create_subnetworks = false

  depends_on = [google_project_service.this]
}

# No firewall rule: with Streaming Engine and Dataflow Shuffle, workers don't speak to each other.
resource "google_compute_subnetwork" "workers" {
  count = local.own

  name                     = "${var.name}-workers"
  region                   = var.region
  network                  = google_compute_network.workers[0].id
  ip_cidr_range            = var.subnetwork_range
  private_ip_google_access = true
  stack_type               = "IPV4_ONLY"

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "EXCLUDE_ALL_METADATA"
  }
}

resource "google_compute_router" "workers" {
  count = var.nat ? local.own : 0

  name    = "${var.name}-workers"
  region  = var.region
  network = google_compute_network.workers[0].id
}

resource "google_compute_router_nat" "workers" {
  count = var.nat ? local.own : 0

  name                               = "${var.name}-workers"
  region                             = var.region
  router                             = google_compute_router.workers[0].name
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS"

  subnetwork {
    name                    = google_compute_subnetwork.workers[0].id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }
}
