from .html import thumbnail as thumbnail
from .html import write_page as write_page
