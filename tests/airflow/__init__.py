"""Tests of deploy/airflow: its functions here, its DAGs in an Airflow of their own."""
