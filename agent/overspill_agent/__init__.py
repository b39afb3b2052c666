"""The site's side: accepts runs, keeps them durably, drives one backend, and streams what becomes of them."""
