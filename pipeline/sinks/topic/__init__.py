"""The topic of dead letters, in Kafka or Pub/Sub."""
