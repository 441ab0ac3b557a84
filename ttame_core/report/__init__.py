"""Reports for people: tables, pictures, the page of an audit and its verdict."""
