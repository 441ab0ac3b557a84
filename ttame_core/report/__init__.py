"""What people read of an audit: tables, pictures, pages and the verdict."""
