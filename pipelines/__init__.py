"""Pipelines: Ray Data over videos, tables and clips; plain functions of posec3d, put on a cluster."""
