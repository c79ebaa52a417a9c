"""The page of `vaevq demo`: a photo through the tokenizer, its tokens to click and to paint, and sampled images.

What is measured and drawn (`photo`, `jpeg`, `codewords`, `uploads`, `limits`) knows nothing of the page. Each tab is a
file that ends in `_tab` with one `build`, and `page` puts them together.
"""
