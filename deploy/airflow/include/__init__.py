"""What the DAGs do, as plain functions; Airflow itself is imported only where it must be."""
